package catalog

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

// volume is what the catalogue reads of a disk of this device: columns of the volume model, which another plugin serves,
// if it is configured at all.
type volume struct {
	sdk.Owned
	MountPoint   string `starling:"mount_point"`
	Mounted      bool   `starling:"mounted"`
	DeviceNumber int64  `starling:"device_number"`
}

func volumeModel() sdk.Model[volume] { return sdk.Model[volume]{Name: "volume", Version: 1} }

// placed is the column of the location model that is written here alone: people write the others.
type placed struct {
	sdk.Owned
	Volume sdk.Ref `starling:"volume_id,ref=volume,weak"`
}

func placedModel() sdk.Model[placed] { return sdk.Model[placed]{Name: "location", Version: 2} }

// followVolumes keeps each location's volume the one that its folder is on, as locations and volumes change.
func followVolumes(ctx context.Context, host sdk.SourceHost, files disk.Files) error {
	locations, volumes := host.Changed("location"), host.Changed("volume")
	for {
		if err := placeLocations(ctx, host, files); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // stopped, not failed
			}
			return fmt.Errorf("find out which volume each location is on: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-locations:
			if !open {
				locations = nil // ctx is about to end
			}
		case _, open := <-volumes:
			if !open {
				volumes = nil // as above
			}
		}
	}
}

// placeLocations writes the volumes of locations that differ. A location whose folder counts as absent, as where a disk
// was unmounted, keeps the one it had.
func placeLocations(ctx context.Context, host sdk.SourceHost, files disk.Files) error {
	volumes, err := findVolumes(ctx, host)
	if err != nil || len(volumes) == 0 {
		return err
	}
	locations, err := findLocations(ctx, host)
	if err != nil {
		return err
	}
	packer, err := placedModel().Packer()
	if err != nil {
		return err
	}
	for i := range locations {
		l := &locations[i]
		at, absent, err := visit(ctx, host, files, l.ID, filepath.Clean(l.Path))
		if err != nil {
			return err
		}
		if absent != nil {
			continue
		}
		if ref := sdk.Ref(volumeOf(&at, volumes)); !ref.IsZero() && ref != l.Volume {
			packer.Put(&placed{Owned: sdk.Owned{ID: l.ID}, Volume: ref})
		}
	}
	if packer.Len() == 0 {
		return nil
	}
	_, err = host.Commit(ctx, packer.Batch()) // a refused one was removed meanwhile
	return err
}

// findVolumes returns this device's volumes that are mounted; none where nobody catalogues volumes.
func findVolumes(ctx context.Context, host sdk.SourceHost) ([]volume, error) {
	batch, err := host.Find(ctx, "volume", "id", nil)
	if sdk.CodeOf(err) == sdk.CodeUnknownModel {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var volumes []volume
	for v, err := range volumeModel().Rows(&batch) {
		if err != nil {
			return nil, err
		}
		if v.Mounted {
			volumes = append(volumes, v)
		}
	}
	return volumes, nil
}

// volumeOf returns the volume that a folder is on: the one of its file system or, where that has no number, or one of its
// own as a part of a btrfs has, the one whose mount point is nearest above it. It is zero if there is none.
func volumeOf(at *found, volumes []volume) sdk.RecordID {
	best := -1
	for i := range volumes {
		point := volumes[i].MountPoint
		switch {
		case at.info.Device != 0 && at.info.Device == volumes[i].DeviceNumber:
			return volumes[i].ID
		case !holds(point, at.real):
		case best < 0 || len(point) > len(volumes[best].MountPoint):
			best = i
		}
	}
	if best < 0 {
		return sdk.RecordID{}
	}
	return volumes[best].ID
}

// holds reports whether path is folder or lies below it.
func holds(folder, path string) bool {
	below, err := filepath.Rel(folder, path)
	return err == nil && below != ".." && !strings.HasPrefix(below, ".."+string(filepath.Separator))
}
