// Package contract holds every string and every JSON shape that crosses a
// process border of Millrace: names that Fluid's users select on, environment
// variables, paths inside pods, runtime.json and the engine's summary.
//
// Controllers and the cache runtime never import each other; they meet here and
// in API objects. The package imports nothing but the standard library. What a
// user of Fluid can see is byte-exact and guarded by a golden test.
package contract
