package control

import (
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control/controlpb"
	"github.com/starling-sync/starling/sdk"
)

// each maps convert over in; the result is never nil, so that it is [] in JSON.
func each[A, B any](in []A, convert func(*A) B) []B {
	out := make([]B, 0, len(in))
	for i := range in {
		out = append(out, convert(&in[i]))
	}
	return out
}

func eachFromWire[A, B any](in []*A, convert func(*A) B) []B {
	out := make([]B, 0, len(in))
	for _, v := range in {
		out = append(out, convert(v))
	}
	return out
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

func duration(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// deviceFromWire gives the zero id for bytes that are none.
func deviceFromWire(raw []byte) sdk.DeviceID {
	if len(raw) != len(sdk.DeviceID{}) {
		return sdk.DeviceID{}
	}
	return sdk.DeviceID(raw)
}

func statusToWire(s *Status) *controlpb.StatusResponse {
	return &controlpb.StatusResponse{
		DeviceId: s.DeviceID[:], DeviceName: s.DeviceName,
		LibraryId: s.LibraryID, LibraryName: s.LibraryName,
		Version: s.Version, StartedUs: micros(s.Started),
		StoreKind: s.StoreKind, StoreBytes: s.StoreBytes,
		ClockState: s.ClockState, ClockOffsetUs: s.ClockOffset.Microseconds(),
		Models: each(s.Models, func(m *ModelStatus) *controlpb.ModelStatus {
			return &controlpb.ModelStatus{
				Model: string(m.Model), Ownership: string(m.Ownership), Version: m.Version, Rows: m.Rows, Waiting: m.Waiting, Parked: m.Parked,
			}
		}),
		Transports: each(s.Transports, func(t *TransportStatus) *controlpb.TransportStatus {
			return &controlpb.TransportStatus{Name: t.Name, Kind: t.Kind, Address: t.Address, State: t.State, Reason: t.Reason}
		}),
		Sources: each(s.Sources, sourceToWire),
		Peers:   each(s.Peers, peerToWire),
		Plugins: each(s.Plugins, pluginToWire),
		Refused: s.Refused, Conflicts: s.Conflicts,
		RefusedChanges: each(s.RefusedChanges, refusedToWire),
		Warnings: each(s.warnings(), func(w *StatusWarning) *controlpb.StatusWarning {
			return &controlpb.StatusWarning{Code: string(w.Code), Text: w.Text}
		}),
		RetiredUs: micros(s.RetiredAt),
		Log:       &controlpb.LogStatus{Entries: s.Log.Entries, Bytes: s.Log.Bytes, OldestUs: micros(s.Log.Oldest)},
		Shadow: &controlpb.ShadowStatus{
			Deleted: s.Shadow.Deleted, NotInserted: s.Shadow.NotInserted, Waiting: s.Shadow.Waiting, WaitingBound: s.Shadow.WaitingBound,
		},
		Retention: &controlpb.Retention{
			AgeUs: s.Retention.Age.Microseconds(), Bytes: s.Retention.Bytes, ConflictsUs: s.Retention.Conflicts.Microseconds(),
		},
		Repaired: s.Repaired,
		Refusals: each(s.Refusals, func(r *RefusedInput) *controlpb.RefusedInput {
			return &controlpb.RefusedInput{Limit: r.Limit, Count: r.Count}
		}),
	}
}

func refusedToWire(r *RefusedChange) *controlpb.RefusedChange {
	return &controlpb.RefusedChange{
		Model: string(r.Model), Id: r.ID[:], Origin: r.Origin[:], Stamp: uint64(r.Stamp), Code: string(r.Code), Message: r.Message,
	}
}

func refusedFromWire(r *controlpb.RefusedChange) RefusedChange {
	out := RefusedChange{
		Model: sdk.ModelName(r.GetModel()), Origin: deviceFromWire(r.GetOrigin()), Stamp: hlc.Stamp(r.GetStamp()), Code: sdk.Code(r.GetCode()), Message: r.GetMessage(),
	}
	copy(out.ID[:], r.GetId())
	return out
}

func statusFromWire(s *controlpb.StatusResponse) Status {
	return Status{
		DeviceID: deviceFromWire(s.GetDeviceId()), DeviceName: s.GetDeviceName(),
		LibraryID: s.GetLibraryId(), LibraryName: s.GetLibraryName(),
		Version: s.GetVersion(), Started: fromMicros(s.GetStartedUs()),
		StoreKind: s.GetStoreKind(), StoreBytes: s.GetStoreBytes(),
		ClockState: s.GetClockState(), ClockOffset: duration(s.GetClockOffsetUs()),
		Models: eachFromWire(s.GetModels(), func(m *controlpb.ModelStatus) ModelStatus {
			return ModelStatus{
				Model: sdk.ModelName(m.GetModel()), Ownership: sdk.Ownership(m.GetOwnership()), Version: m.GetVersion(),
				Rows: m.GetRows(), Waiting: m.GetWaiting(), Parked: m.GetParked(),
			}
		}),
		Transports: eachFromWire(s.GetTransports(), func(t *controlpb.TransportStatus) TransportStatus {
			return TransportStatus{
				Name: t.GetName(), Kind: t.GetKind(), Address: t.GetAddress(), State: t.GetState(), Reason: t.GetReason(),
			}
		}),
		Sources: eachFromWire(s.GetSources(), sourceFromWire),
		Peers:   eachFromWire(s.GetPeers(), peerFromWire),
		Plugins: eachFromWire(s.GetPlugins(), pluginFromWire),
		Refused: s.GetRefused(), Conflicts: s.GetConflicts(),
		RefusedChanges: eachFromWire(s.GetRefusedChanges(), refusedFromWire),
		Warnings: eachFromWire(s.GetWarnings(), func(w *controlpb.StatusWarning) StatusWarning {
			return StatusWarning{Code: WarningCode(w.GetCode()), Text: w.GetText()}
		}),
		RetiredAt: fromMicros(s.GetRetiredUs()),
		Log:       LogStatus{Entries: s.GetLog().GetEntries(), Bytes: s.GetLog().GetBytes(), Oldest: fromMicros(s.GetLog().GetOldestUs())},
		Shadow: ShadowStatus{
			Deleted: s.GetShadow().GetDeleted(), NotInserted: s.GetShadow().GetNotInserted(),
			Waiting: s.GetShadow().GetWaiting(), WaitingBound: s.GetShadow().GetWaitingBound(),
		},
		Retention: Retention{
			Age: duration(s.GetRetention().GetAgeUs()), Bytes: s.GetRetention().GetBytes(), Conflicts: duration(s.GetRetention().GetConflictsUs()),
		},
		Repaired: s.GetRepaired(),
		Refusals: eachFromWire(s.GetRefusals(), func(r *controlpb.RefusedInput) RefusedInput {
			return RefusedInput{Limit: r.GetLimit(), Count: r.GetCount()}
		}),
	}
}

func sourceToWire(s *SourceStatus) *controlpb.SourceStatus {
	return &controlpb.SourceStatus{
		Model: string(s.Model), State: s.State, Reason: s.Reason,
		Progress: each(s.Progress, func(p *Progress) *controlpb.Progress {
			return &controlpb.Progress{Key: p.Key, Unit: p.Unit, Done: p.Done, Total: p.Total}
		}),
		Warnings: each(s.Warnings, func(w *Warning) *controlpb.Warning {
			return &controlpb.Warning{Key: w.Key, Count: w.Count, Message: w.Message}
		}),
	}
}

func sourceFromWire(s *controlpb.SourceStatus) SourceStatus {
	return SourceStatus{
		Model: sdk.ModelName(s.GetModel()), State: s.GetState(), Reason: s.GetReason(),
		Progress: eachFromWire(s.GetProgress(), func(p *controlpb.Progress) Progress {
			return Progress{Key: p.GetKey(), Unit: p.GetUnit(), Done: p.GetDone(), Total: p.GetTotal()}
		}),
		Warnings: eachFromWire(s.GetWarnings(), func(w *controlpb.Warning) Warning {
			return Warning{Key: w.GetKey(), Count: w.GetCount(), Message: w.GetMessage()}
		}),
	}
}

func peerToWire(p *Peer) *controlpb.Peer {
	return &controlpb.Peer{
		Id: p.ID[:], Name: p.Name, State: p.State, Reason: p.Reason,
		BehindUs: p.Behind.Microseconds(), BehindMeUs: p.BehindMe.Microseconds(),
		Progress: p.Progress, LeftUs: p.Left.Microseconds(),
		RttUs: p.RTT.Microseconds(), SkewUs: p.Skew.Microseconds(), Via: p.Via, SinceUs: micros(p.Since),
		BytesIn: p.BytesIn, BytesOut: p.BytesOut, RowsIn: p.RowsIn, RowsPerSecond: p.RowsPerSecond,
		Addresses: p.Addresses, RetiredUs: micros(p.RetiredAt), RunsTwice: p.RunsTwice, Refuses: p.Refuses, Audit: auditToWire(&p.Audit),
	}
}

func peerFromWire(p *controlpb.Peer) Peer {
	return Peer{
		ID: deviceFromWire(p.GetId()), Name: p.GetName(), State: p.GetState(), Reason: p.GetReason(),
		Behind: duration(p.GetBehindUs()), BehindMe: duration(p.GetBehindMeUs()),
		Progress: p.GetProgress(), Left: duration(p.GetLeftUs()),
		RTT: duration(p.GetRttUs()), Skew: duration(p.GetSkewUs()), Via: p.GetVia(), Since: fromMicros(p.GetSinceUs()),
		BytesIn: p.GetBytesIn(), BytesOut: p.GetBytesOut(), RowsIn: p.GetRowsIn(), RowsPerSecond: p.GetRowsPerSecond(),
		Addresses: append([]string{}, p.GetAddresses()...),
		RetiredAt: fromMicros(p.GetRetiredUs()), RunsTwice: p.GetRunsTwice(), Refuses: p.GetRefuses(), Audit: auditFromWire(p.GetAudit()),
	}
}

func pluginToWire(p *Plugin) *controlpb.Plugin {
	return &controlpb.Plugin{
		Name: p.Name, Kind: p.Kind, State: p.State, Reason: p.Reason,
		Pid: int64(p.PID), SinceUs: micros(p.Since), Restarts: int64(p.Restarts),
		Path: p.Path, Sha256: p.SHA256, Version: p.Version, Swap: p.Swap, Staged: each(p.Staged, buildToWire),
		Models: each(p.Models, func(m *sdk.ModelName) string { return string(*m) }),
	}
}

func pluginFromWire(p *controlpb.Plugin) Plugin {
	models := make([]sdk.ModelName, 0, len(p.GetModels()))
	for _, m := range p.GetModels() {
		models = append(models, sdk.ModelName(m))
	}
	return Plugin{
		Name: p.GetName(), Kind: p.GetKind(), State: p.GetState(), Reason: p.GetReason(),
		PID: int(p.GetPid()), Since: fromMicros(p.GetSinceUs()), Restarts: int(p.GetRestarts()),
		Path: p.GetPath(), SHA256: p.GetSha256(), Version: p.GetVersion(), Swap: p.GetSwap(), Models: models,
		Staged: eachFromWire(p.GetStaged(), buildFromWire),
	}
}

func refusalToWire(r *sdk.Refusal) *controlpb.Refusal {
	return &controlpb.Refusal{Index: int32(r.Index), Code: string(r.Code), Message: r.Message} //nolint:gosec // an index into one request
}

func refusalFromWire(r *controlpb.Refusal) sdk.Refusal {
	return sdk.Refusal{Index: int(r.GetIndex()), Code: sdk.Code(r.GetCode()), Message: r.GetMessage()}
}

func digestToWire(d *ModelDigest) *controlpb.ModelDigest {
	return &controlpb.ModelDigest{Model: string(d.Model), Rows: d.Rows, Digest: d.Digest}
}

func digestFromWire(d *controlpb.ModelDigest) ModelDigest {
	return ModelDigest{Model: sdk.ModelName(d.GetModel()), Rows: d.GetRows(), Digest: d.GetDigest()}
}

func versionFromWire(stamp uint64, device []byte) sdk.Version {
	return sdk.Version{Stamp: hlc.Stamp(stamp), Device: deviceFromWire(device)}
}

func conflictFromWire(c *controlpb.Conflict) ConflictView {
	id, _ := idFromWire(c.GetId()) //nolint:errcheck // the host made it
	view := ConflictView{
		Number: c.GetNumber(), Model: sdk.ModelName(c.GetModel()), ID: id, Field: c.GetField(),
		Value: c.GetLostJson(), Standing: c.GetWinnerJson(),
		Lost:   versionFromWire(c.GetLostStamp(), c.GetLostDevice()),
		Winner: versionFromWire(c.GetWinnerStamp(), c.GetWinnerDevice()),
	}
	if len(view.Standing) == 0 {
		view.Standing = nil
	}
	return view
}
