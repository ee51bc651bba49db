// Package sdktest holds the laws that plugins keep: Model for models, Transport for transports. Every plugin runs them,
// in process and against its built binary, and so do the fakes here: MemoryTransport, a network in memory, and
// SourceHost, a host for a source without a database. SourceHostSuite holds the laws of the hosts of sources, which the
// real one keeps as well as the fake.
//
// The laws of models and transports are tables of Checks, each with an id that stays: Test runs them as subtests, Run
// outside of `go test`. Package sdk/verify adds the laws of the process and checks a built plugin of any language.
//
// It promises that a law which fails names the smallest history found that breaks it, and that a rapid seed replays it.
// It leaves to each plugin's own tests what its records mean.
package sdktest
