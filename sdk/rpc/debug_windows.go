package rpc

import "github.com/starling-sync/starling/sdk"

// ownAlone refuses: a plugin can not be debugged here.
func ownAlone(string) error {
	return sdk.Errorf(sdk.CodeUnsupported, "attach needs a private Unix socket, which this system has not")
}
