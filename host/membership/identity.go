// Package membership says who this device is and who belongs to its library.
//
// It keeps the device's Ed25519 key and the TLS configurations that follow from it (Identity), the set of members as
// their shared records say (Members), and pairs devices by one-time codes (Pairing, Decode, Joined). It promises that
// a device id is bound to a key, that a code admits one device once, and that neither keys nor secrets are printed or
// sent: the database holds only a hash of a code's secret. It leaves the storing of records, the connections and the
// messages of pairing to others.
package membership

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// KeyFile is the name of the key's file in the data directory.
const KeyFile = "device.key"

// Identity is a device's key and what follows from it. It is immutable; its methods may be called at once.
type Identity struct {
	key         ed25519.PrivateKey
	id          sdk.DeviceID
	certificate tls.Certificate
}

// DeviceIDOf returns the id of the device that holds the private half of key: a UUIDv8 (RFC 9562) of the first 16
// bytes of its SHA-256.
func DeviceIDOf(key ed25519.PublicKey) sdk.DeviceID {
	sum := sha256.Sum256(key)
	id := sdk.DeviceID(sum[:16])
	id[6] = id[6]&0x0f | 0x80 // version 8
	id[8] = id[8]&0x3f | 0x80 // RFC 9562 variant
	return id
}

// NewIdentity makes a key from 32 bytes of random. It is not stored.
func NewIdentity(random io.Reader) (*Identity, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, sdk.Errorf(sdk.CodeInternal, "make the device's key: %w", err)
	}
	return identityOf(ed25519.NewKeyFromSeed(seed))
}

func identityOf(key ed25519.PrivateKey) (*Identity, error) {
	public := key.Public().(ed25519.PublicKey) //nolint:forcetypeassert // what an Ed25519 key returns
	id := DeviceIDOf(public)
	template := x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id.String()},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // no expiry (RFC 5280); peers look at the key alone
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, public, key)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInternal, "make the device's certificate: %w", err)
	}
	return &Identity{key: key, id: id, certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}, nil
}

// ID returns the device's id.
func (i *Identity) ID() sdk.DeviceID { return i.id }

// PublicKey returns the public half of the key. It must not be changed.
func (i *Identity) PublicKey() ed25519.PublicKey {
	return i.key.Public().(ed25519.PublicKey) //nolint:forcetypeassert // what an Ed25519 key returns
}

// String returns the id, so that no key is printed by accident.
func (i *Identity) String() string { return i.id.String() }

// GoString is String, for %#v.
func (i *Identity) GoString() string { return "Identity(" + i.id.String() + ")" }

// CreateIdentity makes a key and stores it in dir, durably, readable by this user alone. It never replaces a key.
func CreateIdentity(dir string, random io.Reader) (*Identity, error) {
	path := filepath.Join(dir, KeyFile)
	if _, err := os.Lstat(path); err == nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s: there is a key already; a device keeps its key for life", path)
	}
	identity, err := NewIdentity(random)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(identity.key)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInternal, "encode the device's key: %w", err)
	}
	if err := storeOnce(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, sdk.Errorf(sdk.CodeInternal, "store the device's key: %w", err)
	}
	return identity, nil
}

// storeOnce makes the file path with content, complete or not at all, and durable. It fails if path exists.
func storeOnce(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), KeyFile+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone already after a rename
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	err = os.Link(f.Name(), path) // unlike a rename, never replaces
	if err != nil && !errors.Is(err, fs.ErrExist) {
		if _, statErr := os.Lstat(path); !errors.Is(statErr, fs.ErrNotExist) {
			return err
		}
		err = os.Rename(f.Name(), path) // a file system without hard links
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // folders can not be synced there
	}
	d, err := os.Open(dir) //nolint:gosec // the operator's data directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// OpenIdentity reads the key in dir. CodeNotFound: there is none. It refuses a key that other users may read.
func OpenIdentity(dir string) (*Identity, error) {
	path := filepath.Join(dir, KeyFile)
	f, err := os.Open(path) //nolint:gosec // the operator's data directory
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, sdk.Errorf(sdk.CodeNotFound, "%s: no such file; make this device with: starling init, or bring its key back from a backup", path)
	case err != nil:
		return nil, sdk.Errorf(sdk.CodeInvalid, "open the device's key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "open the device's key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, sdk.Errorf(sdk.CodeDenied, "%s: other users may read this key (mode %04o); run: chmod 600 %s", path, mode, path)
	}
	content, err := io.ReadAll(io.LimitReader(f, 1<<16))
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "read the device's key: %w", err)
	}
	key, err := parseKey(content)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s: %w; bring the file back from a backup, or start a new device with: starling init", path, err)
	}
	return identityOf(key)
}

func parseKey(content []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("this is not a private key in PEM form")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the key is damaged: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("want an Ed25519 key, got a %T", parsed)
	}
	return key, nil
}
