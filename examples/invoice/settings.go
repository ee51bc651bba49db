package main

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/starling-sync/starling/sdk"
)

// settings are what a device's config.hcl may say to the model:
//
//	model "invoice" {
//	  config { number_prefix = "2026-" }
//	}
type settings struct {
	NumberPrefix string `json:"number_prefix"` // what the numbers of invoices written here begin with
}

// configure takes the config block, which comes as a JSON object, before the first write. The operator reads its error.
func (s *settings) configure(_ context.Context, block json.RawMessage) error {
	var given settings
	decoder := json.NewDecoder(bytes.NewReader(block))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&given); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "the config block of invoice takes number_prefix, a text: %w", err)
	}
	*s = given
	return nil
}
