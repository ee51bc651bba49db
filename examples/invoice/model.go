package main

import (
	"strings"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// Invoice is what somebody owes. Its number is its natural key: two devices that enter the same invoice while apart have one
// record once they meet.
type Invoice struct {
	sdk.Shared
	Number   string    `starling:"number,key" doc:"as printed on it, such as 2026-001"`
	Customer string    `starling:"customer,required,index" doc:"who owes it; not blank"`
	Due      time.Time `starling:"due,index" doc:"when it must be paid"`
	Paid     int64     `starling:"paid,max" doc:"cents paid so far; payments only ever add up, so the greatest sum stands"`
	Note     string    `starling:"note"`
}

// Item is a line of an invoice. It is not visible on a device before its invoice is there, whichever arrives first.
type Item struct {
	sdk.Shared
	Invoice sdk.Ref `starling:"invoice_id,ref=invoice,required"`
	Text    string  `starling:"text,required" doc:"what was sold"`
	Cents   int64   `starling:"cents" doc:"what it costs, in all"`
}

// invoices is the model of invoices.
func invoices(s *settings) sdk.Model[Invoice] {
	return sdk.Model[Invoice]{Name: "invoice", Version: 1, Doc: "what customers owe", Validate: s.validate, Config: sdk.Settings(s)}
}

// items is the model of their lines.
func items() sdk.Model[Item] {
	return sdk.Model[Item]{Name: "invoice_item", Version: 1, Doc: "the lines of invoices", Validate: validItem}
}

// validate says why an invoice may not be written here.
func (s *settings) validate(invoice *Invoice) error {
	switch {
	case !strings.HasPrefix(invoice.Number, s.NumberPrefix) || strings.TrimSpace(invoice.Number) == "":
		return sdk.Errorf(sdk.CodeInvalid, `field "number": %q is not a number of ours, which begins with %q`, invoice.Number, s.NumberPrefix)
	case strings.TrimSpace(invoice.Customer) == "":
		return sdk.Errorf(sdk.CodeInvalid, `field "customer": say who owes it; it is blank`)
	case invoice.Paid < 0:
		return sdk.Errorf(sdk.CodeInvalid, `field "paid": %d cents; write what has been paid, which is not less than nothing`, invoice.Paid)
	}
	return nil
}

func validItem(item *Item) error {
	if strings.TrimSpace(item.Text) == "" {
		return sdk.Errorf(sdk.CodeInvalid, `field "text": say what was sold; it is blank`)
	}
	return nil
}
