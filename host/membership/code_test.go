package membership

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/sdk"
)

func exampleTicket() Ticket {
	return Ticket{
		Inviter: sdk.DeviceID{1, 2, 3}, Secret: []byte("0123456789abcdef"),
		Addresses: []Address{{"tcp", "192.0.2.7:7420"}, {"tcp", "[2001:db8::1]:7420"}},
	}
}

func TestDecode_ReadsWhatEncodeWrote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Ticket{
			Inviter: sdk.DeviceID(rapid.SliceOfN(rapid.ByteRange(1, 255), 16, 16).Draw(t, "inviter")),
			Secret:  rapid.SliceOfN(rapid.Byte(), secretBytes, secretBytes).Draw(t, "secret"),
		}
		for range rapid.IntRange(0, 4).Draw(t, "addresses") {
			part := rapid.StringMatching(`[a-z0-9.:\[\]]{1,40}`)
			want.Addresses = append(want.Addresses, Address{part.Draw(t, "transport"), part.Draw(t, "address")})
		}
		got, err := Decode(want.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("ticket (-want +got):\n%s", diff)
		}
	})
}

func TestDecode_AsPeoplePaste(t *testing.T) {
	ticket := exampleTicket()
	code := ticket.Encode()
	for name, pasted := range map[string]string{
		"upper case":   strings.ToUpper(code),
		"over lines":   "  " + code[:40] + "\r\n    " + code[40:] + "\n",
		"quoted":       `"` + code + `"`,
		"o for 0":      codePrefix + strings.ReplaceAll(code[len(codePrefix):], "0", "o"),
		"i and l":      codePrefix + strings.ReplaceAll(code[len(codePrefix):], "1", "I"),
		"grouped by -": code[:30] + "-" + code[30:],
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(pasted)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(ticket, got); diff != "" {
				t.Errorf("ticket (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecode_Mistakes(t *testing.T) {
	ticket := exampleTicket()
	code := ticket.Encode()
	for end := range len(code) - 1 {
		if _, err := Decode(code[:end]); err == nil {
			t.Errorf("cut short at %d: accepted", end)
		}
	}
	for i := len(codePrefix); i < len(code); i++ {
		for _, c := range "0z" {
			if code[i] == byte(c) {
				continue
			}
			got, err := Decode(code[:i] + string(c) + code[i+1:])
			if err == nil && !cmp.Equal(got, ticket) { // the last character has bits to spare
				t.Errorf("character %d mistyped: accepted as %+v", i, got)
			}
		}
	}
	for pasted, want := range map[string]sdk.Code{
		"":                        sdk.CodeInvalid,
		"hello":                   sdk.CodeInvalid,
		"starling1-":              sdk.CodeInvalid,
		"starling1-é":             sdk.CodeInvalid,
		"starling2-" + code[10:]:  sdk.CodeUnsupported,
		code + "0000000000000000": sdk.CodeInvalid,
	} {
		if _, err := Decode(pasted); sdk.CodeOf(err) != want {
			t.Errorf("%q: %v; want %s", pasted, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(exampleTicket().Encode())
	f.Add("starling1-")
	f.Fuzz(func(t *testing.T, code string) {
		ticket, err := Decode(code)
		if err != nil {
			return
		}
		if again, err := Decode(ticket.Encode()); err != nil || len(ticket.Addresses) <= 4 && !cmp.Equal(ticket, again) {
			t.Errorf("%+v became %+v, %v", ticket, again, err)
		}
	})
}

func FuzzPayload(f *testing.F) {
	f.Add([]byte(strings.Repeat("x", 33)))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) < len(sdk.DeviceID{})+secretBytes+1 {
			return
		}
		if ticket, err := decodePayload(payload); err == nil && len(ticket.Secret) != secretBytes {
			t.Errorf("a secret of %d bytes", len(ticket.Secret))
		}
	})
}
