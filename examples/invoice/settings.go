package main

// settings are what a device's config.hcl may say to the model, declared to the host by their tags:
//
//	model "invoice" {
//	  config { number_prefix = "2026-" }
//	}
type settings struct {
	NumberPrefix string `starling:"number_prefix" doc:"what the numbers of invoices written here begin with"`
}
