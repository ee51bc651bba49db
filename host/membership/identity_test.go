package membership

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/starling-sync/starling/sdk"
)

func TestDeviceIDOf_IsUUIDv8(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	id := DeviceIDOf(key)
	if got, want := id.String(), "139e3940-e64b-8491-b220-88d9a0d74162"; got != want {
		t.Errorf("id %s, want %s", got, want)
	}
	if u := uuid.UUID(id); u.Version() != 8 || u.Variant() != uuid.RFC4122 {
		t.Errorf("version %d, variant %s", u.Version(), u.Variant())
	}
}

func TestIdentity_StoredOnce(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenIdentity(dir); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("no key: %v", err)
	}
	made, err := CreateIdentity(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if made.ID() != opened.ID() || !made.PublicKey().Equal(opened.PublicKey()) || made.ID() != DeviceIDOf(made.PublicKey()) {
		t.Errorf("made %s, opened %s", made, opened)
	}
	if _, err := CreateIdentity(dir, rand.Reader); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("a second key: %v", err)
	}
	if again, err := OpenIdentity(dir); err != nil || again.ID() != made.ID() {
		t.Errorf("after a second key: %v, %v", again, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("left in the folder: %v, %v", files, err)
	}
	if info, err := os.Stat(filepath.Join(dir, KeyFile)); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := CreateIdentity(filepath.Join(dir, "absent"), rand.Reader); err == nil {
		t.Error("a key was stored in a folder that is not there")
	}
}

func TestOpenIdentity_Refuses(t *testing.T) {
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.MarshalPKCS8PrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"empty":      nil,
		"not PEM":    []byte("hello"),
		"cut short":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{0x30, 0x2e}}),
		"public key": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: other}),
		"ECDSA":      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: other}),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, KeyFile), content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := OpenIdentity(dir)
			if sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), "backup") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestOpenIdentity_ReadableByOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no such mode on Windows")
	}
	dir := t.TempDir()
	if _, err := CreateIdentity(dir, rand.Reader); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, KeyFile), 0o640); err != nil { //nolint:gosec // the point
		t.Fatal(err)
	}
	_, err := OpenIdentity(dir)
	if sdk.CodeOf(err) != sdk.CodeDenied || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
}

func TestIdentity_PrintsNoKey(t *testing.T) {
	identity, err := NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, identity); len(got) > 60 || !strings.Contains(got, identity.ID().String()) {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}
