package verify_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/starling-sync/starling/sdk/verify"
)

// TestPython checks the example in Python, which shares no code with this package: the contract is enough to write a plugin.
func TestPython(t *testing.T) {
	leftOut(t)
	path, err := filepath.Abs("../../examples/python/recipe.py")
	if err != nil {
		t.Fatal(err)
	}
	if !pythonKnows(t) {
		t.Skip("no python3 here that has what the example needs; on Debian: apt install python3-grpcio python3-protobuf python3-msgpack python3-cryptography")
	}
	verify.Test(t, path, verify.Options{Records: []json.RawMessage{
		json.RawMessage(`{"name":"soup","minutes":40,"rating":1}`), json.RawMessage(`{"name":"bread","minutes":0,"rating":5}`),
	}})
}

// pythonKnows looks for a python3 that has the libraries, first on the path, then where a system keeps its own, which it puts
// first then.
func pythonKnows(t *testing.T) bool {
	t.Helper()
	for _, dir := range []string{"", "/usr/bin"} {
		python := "python3"
		if dir != "" {
			python = filepath.Join(dir, python)
		}
		if exec.CommandContext(t.Context(), python, "-c", "import grpc, google.protobuf, msgpack, cryptography").Run() == nil { //nolint:gosec // fixed
			if dir != "" {
				t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
			}
			return true
		}
	}
	return false
}
