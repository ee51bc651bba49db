// Command volume serves the volume model and keeps the volumes of its device current: what is mounted, where, and how
// full it is.
package main

import (
	"context"
	"time"

	"github.com/starling-sync/starling/plugins/volume/mounts"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// Volume is a file system of a disk that its device has mounted, or had. One that is not mounted stays, since locations
// refer to it.
type Volume struct {
	sdk.Owned
	Name         string `starling:"name" doc:"for people: its label, or the last part of its mount point"`
	MountPoint   string `starling:"mount_point,required" doc:"the folder where it is mounted, or was"`
	Mounted      bool   `starling:"mounted" doc:"whether it is mounted now"`
	FileSystem   string `starling:"file_system" doc:"such as ext4, apfs or NTFS"`
	Source       string `starling:"source" doc:"what is mounted: a device such as /dev/sda1, or what the system calls it"`
	UUID         string `starling:"uuid,index" doc:"of the file system, as the system spells it; empty where it does not tell"`
	Label        string `starling:"label" doc:"the file system's own name; empty where it has none"`
	DeviceNumber int64  `starling:"device_number" doc:"the file system's number on its device since it was mounted; 0 where there is none"`
	Capacity     int64  `starling:"capacity" doc:"bytes"`
	Free         int64  `starling:"free" doc:"bytes that an ordinary user may still write, to within 1 % of the capacity or an hour"`
	Removable    bool   `starling:"removable" doc:"made to be taken out, such as a stick, a card or a disk on USB"`
	ReadOnly     bool   `starling:"read_only" doc:"nothing can be written to it as it is mounted"`
}

func main() { rpc.Serve(model()) }

// model is what this plugin serves.
func model() sdk.Model[Volume] {
	s := defaults() // until Configure, which is called before Run
	return sdk.Model[Volume]{
		Name:     "volume",
		Version:  1,
		Doc:      "a disk of its device",
		Validate: validate,
		Config:   sdk.Settings(s),

		WrittenBy: "the volume plugin, from what is mounted",
		MayDelete: true, // what is mounted has a record again at once
		Source: func(ctx context.Context, host sdk.SourceHost) error {
			ticker := time.NewTicker(s.Poll)
			defer ticker.Stop()
			k := keeper{host: host, list: mounts.List, now: time.Now, tick: ticker.C}
			return k.run(ctx)
		},
	}
}

// settings are the config block: { poll = "5s" }.
type settings struct {
	Poll time.Duration `starling:"poll" doc:"how often to look what is mounted, and how full it is; at least 1s"`
}

func defaults() *settings { return &settings{Poll: 5 * time.Second} }

// Check says why the settings make no sense.
func (s *settings) Check() error {
	if s.Poll < time.Second {
		return sdk.BadSetting("poll", "%q is too short; write at least %q", sdk.FormatDuration(s.Poll), "1s")
	}
	return nil
}

func validate(v *Volume) error {
	switch {
	case v.MountPoint == "":
		return sdk.Errorf(sdk.CodeInvalid, "mount_point: it is empty; give the folder where the volume is mounted")
	case v.Capacity < 0:
		return sdk.Errorf(sdk.CodeInvalid, "capacity: %d bytes is less than nothing", v.Capacity)
	case v.Free < 0:
		return sdk.Errorf(sdk.CodeInvalid, "free: %d bytes is less than nothing", v.Free)
	}
	return nil
}
