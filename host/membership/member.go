package membership

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// MemberModel is the name of the model whose records are the library's devices.
const MemberModel sdk.ModelName = "member"

// Member is a device of the library. The id of the record is the id of the device.
type Member struct {
	sdk.Shared
	Name      string          `starling:"name,required" doc:"what people call the device"`
	PublicKey []byte          `starling:"public_key,required" doc:"Ed25519; the device's id follows from it"`
	Addresses json.RawMessage `starling:"addresses" doc:"where it can be dialled: [{\"transport\": \"tcp\", \"address\": \"host:port\"}], best first"`
	JoinedAt  time.Time       `starling:"joined_at,required" doc:"when it became a member"`
	RetiredAt time.Time       `starling:"retired_at,max" doc:"when it was retired; no session with it any more"` // by value: nobody takes it back
}

// Address is where a device can be dialled.
type Address struct {
	Transport string `json:"transport"` // what sdk.Transport.Name returns, such as "tcp"
	Address   string `json:"address"`   // what that transport dials
}

// Limits of what a device says of itself.
const (
	maxAddresses    = 16
	maxAddressBytes = 255 // a byte counts them in a code
	maxNameBytes    = 64
)

// Model returns the model of members, which the host serves in its own process.
func Model() sdk.Model[Member] {
	return sdk.Model[Member]{
		Name: MemberModel, Version: 1, Doc: "the devices of this library",
		Validate: func(m *Member) error {
			if len(m.PublicKey) != ed25519.PublicKeySize || DeviceIDOf(m.PublicKey) != m.Device() {
				return sdk.Errorf(sdk.CodeInvalid, "member %s: the id does not follow from the public key; devices join with: starling invite", m.ID)
			}
			if err := checkName(m.Name); err != nil {
				return err
			}
			_, err := m.Where()
			return err
		},
	}
}

// Device returns the id of the device.
func (m *Member) Device() sdk.DeviceID { return sdk.DeviceID(m.ID) }

// Retired reports whether the device has been retired.
func (m *Member) Retired() bool { return !m.RetiredAt.IsZero() }

// Where returns the device's addresses, best first.
func (m *Member) Where() ([]Address, error) {
	if len(m.Addresses) == 0 {
		return nil, nil
	}
	var addresses []Address
	if err := json.Unmarshal(m.Addresses, &addresses); err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "member %s: addresses: want a list of objects with transport and address: %w", m.ID, err)
	}
	return addresses, checkAddresses(addresses)
}

func checkName(name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return sdk.Errorf(sdk.CodeInvalid, "the device's name is empty")
	case len(name) > maxNameBytes:
		return sdk.Errorf(sdk.CodeInvalid, "the device's name is over %d bytes", maxNameBytes)
	case strings.ContainsFunc(name, control):
		return sdk.Errorf(sdk.CodeInvalid, "the device's name %q holds a control character", name)
	}
	return nil
}

func checkAddresses(addresses []Address) error {
	if len(addresses) > maxAddresses {
		return sdk.Errorf(sdk.CodeInvalid, "%d addresses; a device has at most %d", len(addresses), maxAddresses)
	}
	for _, a := range addresses {
		if a.Transport == "" || a.Address == "" || len(a.Transport) > maxAddressBytes || len(a.Address) > maxAddressBytes {
			return sdk.Errorf(sdk.CodeInvalid, "address %q of transport %q: want both, at most %d bytes each", a.Address, a.Transport, maxAddressBytes)
		}
		if strings.ContainsFunc(a.Transport, control) || strings.ContainsFunc(a.Address, control) {
			return sdk.Errorf(sdk.CodeInvalid, "address %q of transport %q holds a control character", a.Address, a.Transport)
		}
	}
	return nil
}

func control(r rune) bool { return r < 0x20 || r == 0x7f || r == '\uFFFD' }

// encodeAddresses returns the stored form of addresses: the same bytes for the same list.
func encodeAddresses(addresses []Address) json.RawMessage {
	if len(addresses) == 0 {
		return nil
	}
	encoded, err := json.Marshal(addresses)
	if err != nil {
		return nil // two strings always encode
	}
	return encoded
}

// changed returns the names of the fields in which m must change to say name and addresses.
func (m *Member) changed(name string, addresses []Address) []string {
	var names []string
	if m.Name != name {
		names = append(names, "name")
	}
	if !bytes.Equal(m.Addresses, encodeAddresses(addresses)) {
		names = append(names, "addresses")
	}
	return names
}

// Reachable returns where peers can dial a transport that listens at listen ("host:port"): what the operator
// advertises; else listen itself; else, where that names every interface, the addresses that interfaces returns
// (net.InterfaceAddrs), the local host's last.
func Reachable(listen string, advertise []string, interfaces func() ([]net.Addr, error)) ([]string, error) {
	if len(advertise) > 0 || listen == "" {
		return slices.Clone(advertise), nil
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return []string{listen}, nil //nolint:nilerr // an address that only its transport understands
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return []string{listen}, nil
	}
	all, err := interfaces()
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "find this machine's addresses: %w; set advertise in the transport's block", err)
	}
	var near, far []string
	for _, a := range all {
		network, ok := a.(*net.IPNet)
		if !ok || network.IP.IsLinkLocalUnicast() || (host == "0.0.0.0" && network.IP.To4() == nil) {
			continue
		}
		address := net.JoinHostPort(network.IP.String(), port)
		if network.IP.IsLoopback() {
			near = append(near, address)
		} else {
			far = append(far, address)
		}
	}
	found := append(far, near...)
	return found[:min(len(found), maxAddresses)], nil
}
