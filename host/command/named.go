package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// named returns the name of the plugin that people mean by name: it, or that of the one transport of this kind, which is said on
// standard error. Of several it asks which. What it can not tell is left to the host, as it is.
func (a *app) named(ctx context.Context, host *control.Client, name string) (string, error) {
	plugins, err := host.Plugins(ctx)
	if err != nil || slices.ContainsFunc(plugins, func(p control.Plugin) bool { return p.Name == name }) {
		return name, err
	}
	status, err := host.Status(ctx)
	if err != nil {
		return name, err
	}
	var of []string
	for _, t := range status.Transports {
		if t.Kind == name {
			of = append(of, t.Name)
		}
	}
	return a.ofKind(name, of)
}

// ofKind returns the name of the one transport of a kind, and says which it is. None: kind may be a name, and is returned.
func (a *app) ofKind(kind string, transports []string) (string, error) {
	switch len(transports) {
	case 0:
		return kind, nil
	case 1:
		_, err := fmt.Fprintf(a.Err, "%s: taken to be transport %s, the only one of that kind\n", plain(kind), plain(transports[0]))
		return transports[0], printed(err)
	}
	return kind, sdk.Errorf(sdk.CodeInvalid, "there is no transport called %q, and %d are of that kind; which: %s?", kind, len(transports), strings.Join(transports, " or "))
}
