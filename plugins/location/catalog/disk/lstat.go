//go:build !linux

package disk

import "os"

func stat(path string) (Info, error) {
	f, err := os.Lstat(path)
	if err != nil {
		return Info{}, err
	}
	return native(f), nil
}

// Stat implements Dir.
func (d *dir) Stat(name string) (Info, error) {
	f, err := d.root.Lstat(name)
	if err != nil {
		return Info{}, err
	}
	return native(f), nil
}

// Stat implements Reader.
func (f file) Stat() (Info, error) {
	info, err := f.File.Stat()
	if err != nil {
		return Info{}, err
	}
	return native(info), nil
}
