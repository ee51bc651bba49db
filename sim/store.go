package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/starling-sync/starling/host/database"
)

// store is the database of a device that is down.
type store struct {
	image []byte // in memory; nil: new
	dir   string // in files
}

// stored is a copy of a device's store, and of the world's account of it.
type stored struct {
	store
	account account
	taken   time.Duration
	ahead   bool // of a device that was astray
}

func (d *device) open(ctx context.Context) (err error) {
	w := d.w
	if w.options.Store == "file" {
		if d.store.dir == "" {
			d.store.dir = w.newDir(d)
		}
		d.db, err = database.Open(ctx, database.Options{Dir: d.store.dir, Durability: database.Normal, Readers: 2, CacheKiB: 1024, Log: w.log})
		return err
	}
	image := d.store.image
	if image == nil {
		image = w.options.template
	}
	d.db, err = database.OpenMemory(ctx, image, w.log)
	return err
}

func (w *world) newDir(d *device) string {
	w.dirs++
	return filepath.Join(w.options.Dir, fmt.Sprintf("%d-%d-%d", w.options.Seed, d.index, w.dirs))
}

// keepStore ends the database as a crash does.
func (d *device) keepStore() error {
	w := d.w
	if w.options.Store == "file" {
		next, err := d.copyFiles(d.store.dir)
		err = errors.Join(err, d.db.Close(), os.RemoveAll(d.store.dir))
		d.store.dir = next
		return err
	}
	image, err := d.db.Image()
	if err != nil {
		return err
	}
	d.store.image = w.bug.keepImage(d, image)
	return d.db.Close()
}

// copyStore copies the database as a crash now would leave it.
func (d *device) copyStore() (s store, err error) {
	if d.w.options.Store == "file" {
		s.dir, err = d.copyFiles(d.store.dir)
		return s, err
	}
	if s.image = d.store.image; d.up {
		s.image, err = d.db.Image()
	}
	return s, err
}

// useCopy makes a copy the store of a device that is down. The copy can be used again.
func (d *device) useCopy(s store) (err error) {
	if d.w.options.Store != "file" {
		d.store = s
		return nil
	}
	if d.store.dir != "" {
		err = os.RemoveAll(d.store.dir)
	}
	var copyErr error
	d.store.dir, copyErr = d.copyFiles(s.dir)
	return errors.Join(err, copyErr)
}

// copyFiles copies the database as it stands in its files, which is what the end of a process leaves, before it is closed,
// which would tidy up.
func (d *device) copyFiles(from string) (to string, err error) {
	to = d.w.newDir(d)
	if err := os.MkdirAll(to, 0o700); err != nil {
		return "", err
	}
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(filepath.Join(from, database.FileName+suffix))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(to, database.FileName+suffix), data, 0o600); err != nil {
			return "", err
		}
	}
	return to, nil
}
