// Package engine tells how a cache engine is described and observed. A
// Description is what every kind of runtime is turned into; pure builders make
// its Kubernetes objects from it; the Observer follows what its master says of
// itself; the Reconciler is the part that all kinds of runtime share.
package engine
