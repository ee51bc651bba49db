package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// deviceModel is the model in which a device says what it is, if its plugin is configured.
const deviceModel sdk.ModelName = "device"

// ownDevice are the columns of the device model that the host writes of its own device.
type ownDevice struct {
	sdk.Owned
	Name          string          `starling:"name"`
	System        string          `starling:"system"`
	Architecture  string          `starling:"architecture"`
	SystemName    string          `starling:"system_name"`
	SystemVersion string          `starling:"system_version"`
	Addresses     json.RawMessage `starling:"addresses"`
	Version       string          `starling:"version"`
	StartedAt     time.Time       `starling:"started_at"`
}

func ownDevices() sdk.Model[ownDevice] { return sdk.Model[ownDevice]{Name: deviceModel, Version: 1} }

// self is what this device says of itself. It is made once a start, so that a plugin's restart writes nothing new.
type self struct {
	record  ownDevice
	manager *transaction.Manager
	log     hclog.Logger
}

func newSelf(c *config.Config, identity *membership.Identity, m *transaction.Manager, log hclog.Logger) (*self, error) {
	reachable, err := ownAddresses(c)
	if err != nil {
		return nil, err
	}
	addresses := map[string][]string{}
	for _, a := range reachable {
		addresses[a.Transport] = append(addresses[a.Transport], a.Address)
	}
	encoded, err := json.Marshal(addresses)
	if err != nil {
		return nil, err
	}
	name, release := operatingSystem()
	return &self{manager: m, log: log, record: ownDevice{
		Owned: sdk.Owned{ID: sdk.RecordID(identity.ID())},
		Name:  c.Device.Name, System: runtime.GOOS, Architecture: runtime.GOARCH, SystemName: name, SystemVersion: release,
		Addresses: encoded, Version: version(), StartedAt: time.Now(),
	}}, nil
}

// say writes this device's own record like any local write, now that the plugin of its model is up. That it can not be
// written stops nothing else.
func (s *self) say(ctx context.Context) {
	if err := s.write(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("this device's own record was not written", "model", string(deviceModel), "error", err)
	}
}

func (s *self) write(ctx context.Context) error {
	packer, err := ownDevices().Packer()
	if err != nil {
		return err
	}
	packer.Put(&s.record)
	result, err := s.manager.CommitDeviceOwned(ctx, packer.Batch())
	if err == nil && len(result.Refused) > 0 {
		err = fmt.Errorf("it was refused: %s", result.Refused[0].Message)
	}
	return err
}
