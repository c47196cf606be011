// Package controllers holds the controllers, one package each; its own tests run
// them together.
package controllers
