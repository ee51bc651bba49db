package membership

import (
	"crypto/ed25519"
	"crypto/tls"

	"github.com/starling-sync/starling/sdk"
)

// ALPN names the protocol in the TLS handshake.
const ALPN = "starling/1"

// ServerTLS returns the configuration of the end that was dialled. Any device may connect; PeerID says which one did,
// and whether it may do anything is for the caller to decide.
func (i *Identity) ServerTLS() *tls.Config {
	config := i.both(func(tls.ConnectionState) error { return nil })
	config.ClientAuth = tls.RequireAnyClientCert
	return config
}

// ClientTLS returns the configuration of the end that dials the device expected and refuses every other.
func (i *Identity) ClientTLS(expected sdk.DeviceID) *tls.Config {
	return i.both(func(state tls.ConnectionState) error {
		got, err := i.PeerID(state)
		if err != nil {
			return err
		}
		if got != expected || expected.IsZero() {
			return sdk.Errorf(sdk.CodeDenied, "the device that answered is %s, not %s; its address may belong to another device now", got, expected)
		}
		return nil
	})
}

// both is what the two ends have in common. Certificates carry keys and nothing else: no authority, name or date in
// them is looked at, and each end has shown that it holds its key before verify is called.
func (i *Identity) both(verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{i.certificate},
		NextProtos:             []string{ALPN},
		InsecureSkipVerify:     true, //nolint:gosec // the key is what is verified, in VerifyConnection
		SessionTicketsDisabled: true, // every session proves the keys anew
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol != ALPN {
				return sdk.Errorf(sdk.CodeUnsupported, "the peer does not speak %s", ALPN)
			}
			if _, err := i.PeerID(state); err != nil {
				return err
			}
			return verify(state)
		},
	}
}

// PeerID returns the id of the device at the other end of a completed handshake.
func (i *Identity) PeerID(state tls.ConnectionState) (sdk.DeviceID, error) {
	key, err := PeerKey(state)
	if err != nil {
		return sdk.DeviceID{}, err
	}
	return DeviceIDOf(key), nil
}

// PeerKey returns the public key of the device at the other end of a completed handshake.
func PeerKey(state tls.ConnectionState) (ed25519.PublicKey, error) {
	if len(state.PeerCertificates) == 0 {
		return nil, sdk.Errorf(sdk.CodeDenied, "the peer has shown no key")
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, sdk.Errorf(sdk.CodeDenied, "the peer's key is a %T, not an Ed25519 key", state.PeerCertificates[0].PublicKey)
	}
	return key, nil
}
