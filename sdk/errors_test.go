package sdk_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"

	"github.com/starling-sync/starling/sdk"
)

// TestErrorf wants every cause that is named to be found.
func TestErrorf(t *testing.T) {
	for _, err := range []error{
		sdk.Errorf(sdk.CodeUnavailable, "open: %w", io.EOF),
		sdk.Errorf(sdk.CodeUnavailable, "%w: open: %w", fs.ErrClosed, io.EOF),
	} {
		if !errors.Is(err, io.EOF) || sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("%v: its cause is lost", err)
		}
	}
	if !errors.Is(sdk.Errorf(sdk.CodeUnavailable, "%w: open: %w", fs.ErrClosed, io.EOF), fs.ErrClosed) {
		t.Error("the first of two causes is lost")
	}
}

// TestRefusal_String has refusals print as text: laws and logs show lists of them.
func TestRefusal_String(t *testing.T) {
	got := fmt.Sprintf("%+v", []sdk.Refusal{{Index: 2, Code: sdk.CodeInvalid, Message: "no kind"}})
	if want := "[no kind (invalid, change 2)]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
