package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/starling-sync/starling/host/command"
	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/sdk"
)

// makeDevice makes a device in dir: config.hcl, data directory, key and database. It refuses a folder that has a device
// already, and takes back the files that it made where it fails.
func makeDevice(ctx context.Context, dir string, settings config.Settings) (made command.Made, err error) {
	if _, absent := os.Lstat(dir); errors.Is(absent, fs.ErrNotExist) {
		defer func() {
			if err != nil {
				_ = os.Remove(dir) // unless there is something in it
			}
		}()
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return made, sdk.Errorf(sdk.CodeInvalid, "make the folder %s: %w", dir, err)
	}
	path := filepath.Join(dir, "config.hcl")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return made, sdk.Errorf(sdk.CodeInvalid, "%s is there already; a device lives in this folder: start it with: starling run --config %s", path, path)
	}
	if err != nil {
		return made, sdk.Errorf(sdk.CodeInvalid, "make %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	if err := errors.Join(config.Write(file, settings), file.Close()); err != nil {
		return made, err
	}
	c, err := config.Load(path)
	if err != nil {
		return made, err
	}
	if _, statErr := os.Lstat(c.Device.DataDir); errors.Is(statErr, fs.ErrNotExist) {
		defer func() {
			if err != nil {
				_ = os.RemoveAll(c.Device.DataDir)
			}
		}()
	}
	if err := os.MkdirAll(c.Device.DataDir, 0o700); err != nil {
		return made, sdk.Errorf(sdk.CodeInvalid, "make data folder: %w", err)
	}
	identity, err := membership.CreateIdentity(c.Device.DataDir, rand.Reader)
	if err != nil {
		return made, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(filepath.Join(c.Device.DataDir, membership.KeyFile))
		}
	}()
	options := databaseOptions(c, identity)
	options.New = true
	db, err := database.Open(ctx, options)
	if err != nil {
		return made, err
	}
	if err := db.Close(); err != nil {
		return made, err
	}
	return command.Made{ConfigFile: path, DeviceID: identity.ID()}, nil
}
