package scaffold

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/starling-sync/starling/sdk"
)

// sdkModule is the module that holds package sdk.
const sdkModule = "github.com/starling-sync/starling"

// goVersion is the language version of a module that builds against a published version; it is that of Starling itself.
const goVersion = "1.26.0"

// SDK says which Starling a module builds against. One of its fields is set.
type SDK struct {
	Version  string // published
	Checkout string // folder of a checkout
}

// FindSDK returns what a plugin made now should build against: checkout, if it is not empty; else the version of the
// running binary, if it is published; else the checkout that one of the folders near lies in.
func FindSDK(info *debug.BuildInfo, checkout string, near ...string) (SDK, error) {
	if checkout != "" {
		abs, err := filepath.Abs(checkout)
		if err != nil {
			return SDK{}, sdk.Errorf(sdk.CodeInvalid, "%s: %w", checkout, err)
		}
		found := SDK{Checkout: abs}
		return found, found.check()
	}
	if version, ok := published(info); ok {
		return SDK{Version: version}, nil
	}
	for _, dir := range near {
		for dir != "" {
			if isCheckout(dir) {
				return SDK{Checkout: dir}, nil
			}
			if filepath.Dir(dir) == dir {
				break
			}
			dir = filepath.Dir(dir)
		}
	}
	return SDK{}, sdk.Errorf(sdk.CodeInvalid, "this starling is a development build, which no published version of its Go module equals; "+
		"run the command inside of a checkout of Starling, or name one with --sdk PATH")
}

// published returns the version of the binary's module, if it can be had from where Go modules come from: a tag, or a
// commit that the go tool itself has fetched.
func published(info *debug.BuildInfo) (string, bool) {
	if info == nil || info.Main.Path != sdkModule {
		return "", false
	}
	v := info.Main.Version
	if !semver.IsValid(v) || semver.Build(v) != "" || info.Main.Replace != nil { // +dirty is a build
		return "", false
	}
	return v, info.Main.Sum != "" || !module.IsPseudoVersion(v)
}

func isCheckout(dir string) bool {
	_, err := readModule(dir)
	return err == nil
}

// readModule reads the go.mod of a checkout.
func readModule(dir string) (*modfile.File, error) {
	path := filepath.Join(dir, "go.mod")
	text, err := os.ReadFile(path) //nolint:gosec // the author's choice
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sdk.Errorf(sdk.CodeNotFound, "%s is not a checkout of Starling: it has no go.mod", dir)
	}
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "read the checkout of Starling: %w", err)
	}
	file, err := modfile.Parse(path, text, nil)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "read the checkout of Starling: %w", err)
	}
	if file.Module == nil || file.Module.Mod.Path != sdkModule {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s is not a checkout of Starling: its go.mod is not that of %s", dir, sdkModule)
	}
	return file, nil
}

func (s SDK) check() error {
	if s.Checkout == "" && s.Version == "" {
		return sdk.Errorf(sdk.CodeInvalid, "no version of Starling and no checkout of it to build against")
	}
	if s.Checkout == "" {
		return nil
	}
	_, err := readModule(s.Checkout)
	return err
}

// require writes go.mod to draft, a module that will lie in dir, and go.sum as far as it is known. With a checkout both
// name what the checkout itself is built with, so that the module builds where the checkout does, also without a network.
func (s SDK) require(draft, dir, path string) error {
	file := &modfile.File{}
	version, language := s.Version, goVersion
	if err := file.AddModuleStmt(path); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "go.mod: %w", err)
	}
	var needed []*modfile.Require
	if s.Checkout != "" {
		of, err := readModule(s.Checkout)
		if err != nil {
			return err
		}
		version, needed = "v0.0.0", of.Require
		if of.Go != nil {
			language = of.Go.Version
		}
	}
	if err := file.AddGoStmt(language); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "go.mod: %w", err)
	}
	file.AddNewRequire(sdkModule, version, false)
	for _, r := range needed {
		file.AddNewRequire(r.Mod.Path, r.Mod.Version, true)
	}
	if s.Checkout != "" {
		if err := file.AddReplace(sdkModule, "", replacement(dir, s.Checkout), ""); err != nil {
			return sdk.Errorf(sdk.CodeInvalid, "go.mod: %w", err)
		}
		sums, err := os.ReadFile(filepath.Join(s.Checkout, "go.sum")) //nolint:gosec // the author's choice
		if err == nil {
			err = os.WriteFile(filepath.Join(draft, "go.sum"), sums, 0o644) //nolint:gosec // no secret
		}
		if err != nil {
			return sdk.Errorf(sdk.CodeInvalid, "take go.sum over from the checkout of Starling: %w", err)
		}
	}
	file.SetRequireSeparateIndirect(file.Require)
	file.Cleanup()
	text, err := file.Format()
	if err != nil {
		return fmt.Errorf("write go.mod: %w", err)
	}
	return os.WriteFile(filepath.Join(draft, "go.mod"), text, 0o644) //nolint:gosec // the author's source
}

// replacement is the path of the checkout as go.mod names it: relative where the module lies in the checkout, so that both
// can be moved together.
func replacement(dir, checkout string) string {
	up, err := filepath.Rel(dir, checkout)
	if err != nil || strings.Trim(filepath.ToSlash(up), "./") != "" { // it leads down again
		return checkout
	}
	return filepath.ToSlash(up)
}
