// Package sdk is the contract between Starling's host and its plugins, and what makes a plain plugin short.
//
// It promises that what it defines means the same on every device: ids, versions, descriptions, packed batches, merge
// rules, error codes. A model author needs Model, and Packer if the model is also a source; who needs more implements
// ModelServer, and may build on CheckState and MergeShared. It leaves crossing the process border to sdk/rpc, the laws
// that plugins keep to sdk/sdktest, and storing to the host.
package sdk
