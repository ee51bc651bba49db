//go:build !linux && !darwin && !windows

package disk

const noFollow = 0

func stat(path string) (Info, error) {
	info, _, err := portableStat(path)
	return info, err
}

func remote(string) bool { return false }
