// Package takeover has no code: its test installs Millrace over a Fluid that has
// live objects, as an administrator would.
package takeover
