package sdktest_test

import (
	"testing"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

func TestMemoryTransport(t *testing.T) {
	sdktest.Transport(t, func(*testing.T) sdk.Transport { return sdktest.NewMemoryTransport() })
}
