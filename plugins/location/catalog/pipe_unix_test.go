//go:build unix

package catalog

import "syscall"

func (w *world) pipe(name string) {
	w.Helper()
	if err := syscall.Mkfifo(w.at(name), 0o600); err != nil {
		w.Skip("no pipes here:", err)
	}
}
