package supervisor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// DescribeNext is Describe of the build that a host with this store would start, be it one that was swapped to or one whose copy alone
// is left, and says which that is. The store is left as it is; dir is as of Describe. unsure is not nil where it can not be found out:
// then what the path names is asked. The build is known, with an error too, if there is one that would be started.
func DescribeNext(ctx context.Context, spec Spec, store, dir string, log hclog.Logger) (info rpc.Info, build Build, unsure, err error) {
	copies, err := os.MkdirTemp(dir, "describe-")
	if err != nil {
		return info, build, nil, sdk.Errorf(sdk.CodeUnavailable, "make a folder for a copy of the plugin: %w", err)
	}
	defer func() { _ = os.RemoveAll(copies) }()
	remembered, err := readChoices(store)
	if errors.Is(err, fs.ErrPermission) { // else a host that starts puts it aside, and starts what the path names
		unsure = err
	}
	if running, there := remembered.of(spec.Name).Running.in(store); there {
		if _, err := stage(copies, running.path); err != nil {
			return info, build, nil, err
		}
	}
	options := Options{StoreDir: copies, Log: log, Now: time.Now}
	k := newKeeper(&options, spec)
	k.choices = remembered
	bin, _, err := k.choose(false)
	if err != nil {
		return info, build, unsure, err
	}
	info, err = describe(ctx, spec, bin, log)
	return info, Build{Version: info.Version, SHA256: bin.sum, Path: bin.origin}, unsure, err
}
