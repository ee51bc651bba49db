// Command broken is a plugin with one bug, which the variable BROKEN names, or the name of the program after "broken-": the
// conformance suite must catch each. Without either, it is sound.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/starling-sync/starling/sdk/rpc"
)

func main() {
	_, bug, _ := strings.Cut(filepath.Base(os.Args[0]), "broken-")
	if named, ok := os.LookupEnv("BROKEN"); ok {
		bug = named
	}
	switch {
	case bug == "prints before the handshake":
		fmt.Println("starting up ...")
	case bug == "needs its neighbour":
		if _, err := os.Stat(filepath.Join(filepath.Dir(os.Args[0]), "neighbour")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case bug == "never gets there":
		if rpc.StartedByHost() {
			time.Sleep(time.Hour)
		}
	case bug == "silent by hand":
		if !rpc.StartedByHost() {
			os.Exit(0)
		}
	case bug == "waits by hand":
		if !rpc.StartedByHost() {
			time.Sleep(time.Hour)
		}
	case strings.HasPrefix(bug, "raw"):
		serveRaw(strings.TrimPrefix(strings.TrimPrefix(bug, "raw"), ": "))
		return
	}
	if tie, ok := strings.CutPrefix(bug, "transport: "); ok {
		rpc.Serve(transport{bug: tie})
		return
	}
	rpc.Serve(model{bug: bug})
}
