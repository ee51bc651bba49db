package membership

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"strings"
	"unicode"

	"github.com/starling-sync/starling/sdk"
)

// Ticket is what an invitation's code holds. As text it is "starling1-" and, in Crockford's base 32 (lower case):
//
//	inviter    16 bytes   id of the device that invites, which follows from its key
//	secret     16 bytes   known to the inviter and the invited alone
//	addresses   1 byte    how many; then for each
//	              1 byte  length of the transport's name, and the name
//	              1 byte  length of the address, and the address
//	check       4 bytes   first of the SHA-256 of "starling1-" and all before
type Ticket struct {
	Inviter   sdk.DeviceID
	Addresses []Address
	Secret    []byte
}

const (
	codePrefix  = "starling1-"
	secretBytes = 16
	checkBytes  = 4
)

func codeEncoding() *base32.Encoding {
	return base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)
}

// Encode returns the code. Addresses that would make it unwieldy (beyond four) are left out.
func (t Ticket) Encode() string {
	addresses := t.Addresses[:min(len(t.Addresses), 4)]
	payload := append(t.Inviter[:], t.Secret...)
	payload = append(payload, byte(len(addresses)))
	for _, a := range addresses {
		for _, part := range []string{a.Transport, a.Address} {
			part = part[:min(len(part), 255)]
			payload = append(payload, byte(len(part)))
			payload = append(payload, part...)
		}
	}
	payload = append(payload, check(payload)...)
	return codePrefix + codeEncoding().EncodeToString(payload)
}

func check(payload []byte) []byte {
	sum := sha256.Sum256(append([]byte(codePrefix), payload...))
	return sum[:checkBytes]
}

// Decode reads a code as people paste it: in either case, broken over lines, with o for 0 and i or l for 1.
func Decode(code string) (Ticket, error) {
	code = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '"' || r == '\'' || r == '\u00ad' {
			return -1
		}
		return unicode.ToLower(r)
	}, code)
	body, ok := strings.CutPrefix(code, codePrefix)
	if !ok {
		if rest, newer := strings.CutPrefix(code, "starling"); newer && strings.Contains(rest, "-") {
			return Ticket{}, sdk.Errorf(sdk.CodeUnsupported, "this code is of a kind that this version does not know (it begins with %q, not %q); bring both devices to the same version", code[:min(len(code), 12)], codePrefix)
		}
		return Ticket{}, sdk.Errorf(sdk.CodeInvalid, "this is not an invitation; one begins with %q, as the other device printed it on: starling invite", codePrefix)
	}
	body = strings.NewReplacer("o", "0", "i", "1", "l", "1", "-", "").Replace(body)
	payload, err := codeEncoding().DecodeString(body)
	if err != nil || len(payload) < len(sdk.DeviceID{})+secretBytes+1+checkBytes || codeEncoding().EncodeToString(payload) != body { // the last character has bits to spare
		return Ticket{}, mistyped()
	}
	payload, sum := payload[:len(payload)-checkBytes], payload[len(payload)-checkBytes:]
	if subtle.ConstantTimeCompare(check(payload), sum) != 1 {
		return Ticket{}, mistyped()
	}
	return decodePayload(payload)
}

func mistyped() error {
	return sdk.Errorf(sdk.CodeInvalid, "the code is cut short or mistyped; copy the whole of it again")
}

func decodePayload(payload []byte) (Ticket, error) {
	var t Ticket
	payload = payload[copy(t.Inviter[:], payload):]
	t.Secret, payload = payload[:secretBytes:secretBytes], payload[secretBytes:]
	count, payload := int(payload[0]), payload[1:]
	part := func() (string, bool) {
		if len(payload) == 0 || len(payload) <= int(payload[0]) {
			return "", false
		}
		text := string(payload[1 : 1+int(payload[0])])
		payload = payload[1+len(text):]
		return text, true
	}
	for range count {
		transport, ok1 := part()
		address, ok2 := part()
		if !ok1 || !ok2 {
			return Ticket{}, mistyped()
		}
		t.Addresses = append(t.Addresses, Address{Transport: transport, Address: address})
	}
	if len(payload) > 0 || t.Inviter.IsZero() {
		return Ticket{}, mistyped()
	}
	return t, checkAddresses(t.Addresses)
}
