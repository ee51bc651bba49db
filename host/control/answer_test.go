package control

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// TestDial_NoAnswer dials a host that takes connections and says nothing, as one that is stopped does.
func TestDial_NoAnswer(t *testing.T) {
	dir := t.TempDir()
	listener, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	before := answerTime
	answerTime = 50 * time.Millisecond
	t.Cleanup(func() { answerTime = before })
	_, err = Dial(t.Context(), dir)
	if sdk.CodeOf(err) != sdk.CodeUnavailable || errors.Is(err, ErrNoHost) || !strings.Contains(err.Error(), "does not answer (waited for 50ms)") {
		t.Errorf("got %v", err)
	}
}
