package sdktest

import (
	"slices"

	"github.com/starling-sync/starling/sdk"
)

// modelLaw is a law of models, and which models it is about.
type modelLaw struct {
	Law
	kind  sdk.Ownership // of the records that it is about; a hybrid model has both; empty: it is about none
	about func(s *modelSuite) bool
	check func(s *modelSuite, t T)
}

func (s *modelSuite) any() bool { return true }

func (s *modelSuite) deviceOwned() bool { return s.desc.Ownership != sdk.SharedByAll }

func (s *modelSuite) sharedByAll() bool { return s.desc.Ownership != sdk.DeviceOwned }

func (s *modelSuite) hybrid() bool { return s.desc.Ownership == sdk.HybridOwned }

func (s *modelSuite) keyed() bool {
	_, keyed := s.keys(s.plain())
	return keyed
}

func (s *modelSuite) keyedDeviceOwned() bool { return s.deviceOwned() && s.keyed() }

func (s *modelSuite) withSet() bool { return s.merges(sdk.AddWins) }

func (s *modelSuite) withCounter() bool { return s.merges(sdk.Sum) }

func (s *modelSuite) merges(merge sdk.Merge) bool {
	return slices.ContainsFunc(s.desc.Fields, func(f sdk.Field) bool { return f.Merge == merge })
}

func (s *modelSuite) keyedShared() bool { return s.sharedByAll() && s.keyed() }

// modelLaws are the laws of models: 001 of all, from 010 of device-owned ones, from 030 of shared ones. A new law gets a
// new id and a row in docs/conformance.md.
func modelLaws() []modelLaw {
	all, owned, shared := (*modelSuite).any, (*modelSuite).deviceOwned, (*modelSuite).sharedByAll
	return []modelLaw{
		{Law{"MODEL-001", "Description", "The description is one that a host takes, and the same each time"}, "", all, (*modelSuite).description},

		{Law{"MODEL-010", "DecidedTwiceIsEqual", "Valid remote rows are taken, the same way each time, and the batch is left as it was"}, sdk.DeviceOwned, owned, (*modelSuite).stateTwice},
		{Law{"MODEL-011", "LocalIsAccepted", "A plain record can be written here"}, sdk.DeviceOwned, owned, (*modelSuite).stateLocal},
		{Law{"MODEL-012", "RequiredIsRefusedLocally", "A local row without a required field is refused, its neighbours are not"}, sdk.DeviceOwned, owned, (*modelSuite).stateRequired},
		{Law{"MODEL-013", "UnknownColumnsAreKept", "Columns of a newer schema are kept from peers and refused from writers here"}, sdk.DeviceOwned, owned, (*modelSuite).stateUnknown},
		{Law{"MODEL-014", "OlderSchemaIsAccepted", "Rows of an older schema, which lack columns, are taken from peers"}, sdk.DeviceOwned, owned, (*modelSuite).stateOlder},
		{Law{"MODEL-015", "BadValuesAreRefused", "Values that no database can keep are refused with a reason that names the field, their neighbours are not"}, sdk.DeviceOwned, owned, (*modelSuite).stateBad},
		{Law{"MODEL-016", "OversizeIsRefused", "A row over 1 MiB is refused as too large, its neighbours are not"}, sdk.DeviceOwned, owned, (*modelSuite).stateOversize},
		{Law{"MODEL-017", "AnotherModelIsAnError", "A batch of another model is an error"}, sdk.DeviceOwned, owned, (*modelSuite).stateOtherModel},
		{Law{"MODEL-018", "KeyDecidesTheID", "A row is refused unless its id is that of its natural key"}, sdk.DeviceOwned, (*modelSuite).keyedDeviceOwned, (*modelSuite).stateKey},
		{Law{"MODEL-019", "OwnerDecidesTheKind", "A row of a hybrid model that has no owner is refused, and one without a natural key"}, sdk.DeviceOwned, (*modelSuite).hybrid, (*modelSuite).stateOwner},

		{Law{"MODEL-030", "EqualsReference", "Random histories with ties, deletes and gaps merge, in any order, to what a replay in the order of versions gives"}, sdk.SharedByAll, shared, (*modelSuite).sharedReference},
		{Law{"MODEL-031", "Idempotent", "An operation that is applied again changes nothing"}, sdk.SharedByAll, shared, (*modelSuite).sharedIdempotent},
		{Law{"MODEL-032", "Commutative", "Two orders of the same operations, repetitions among them, give the same records"}, sdk.SharedByAll, shared, (*modelSuite).sharedCommutative},
		{Law{"MODEL-033", "Associative", "Operations in batches give what the same ones give one by one"}, sdk.SharedByAll, shared, (*modelSuite).sharedAssociative},
		{Law{"MODEL-034", "InputIsUntouched", "The same call has the same answer, and leaves what it was given as it was"}, sdk.SharedByAll, shared, (*modelSuite).sharedInput},
		{Law{"MODEL-035", "TieByDevice", "Of two writes with equal stamps the one of the greater device stands"}, sdk.SharedByAll, shared, (*modelSuite).sharedTie},
		{Law{"MODEL-036", "Existence", "A record exists if its latest insert is later than its latest delete; an update brings nothing back"}, sdk.SharedByAll, shared, (*modelSuite).sharedExistence},
		{Law{"MODEL-037", "Conflicts", "A value that lost to a write which had not seen it is reported, and one that was seen is not"}, sdk.SharedByAll, shared, (*modelSuite).sharedConflicts},
		{Law{"MODEL-038", "Local", "Local writes that make no sense are refused with the right code and change nothing; those that do are taken"}, sdk.SharedByAll, shared, (*modelSuite).sharedLocal},
		{Law{"MODEL-039", "UnknownFieldsAreKept", "Fields of a newer schema are merged and kept"}, sdk.SharedByAll, shared, (*modelSuite).sharedUnknown},
		{Law{"MODEL-040", "BadValuesAreRefused", "Values that no database can keep are refused with a reason that names the field, their neighbours are not"}, sdk.SharedByAll, shared, (*modelSuite).sharedBad},
		{Law{"MODEL-041", "OversizeIsRefused", "An operation over 1 MiB is refused as too large, its neighbours are not"}, sdk.SharedByAll, shared, (*modelSuite).sharedOversize},
		{Law{"MODEL-042", "AnotherModelIsAnError", "A batch of another model is an error"}, sdk.SharedByAll, shared, (*modelSuite).sharedOtherModel},
		{Law{"MODEL-043", "KeyDecidesTheID", "An insert is refused unless it has the whole natural key and the id that is that key's"}, sdk.SharedByAll, (*modelSuite).keyedShared, (*modelSuite).sharedKey},
		{Law{"MODEL-044", "AddWins", "An element is in a set if a device has added it and no remove had seen that add"}, sdk.SharedByAll, (*modelSuite).withSet, (*modelSuite).sharedAddWins},
		{Law{"MODEL-045", "CounterSums", "A counter is the sum of what each start of each device counted: of the totals of a part, the one farthest from 0"}, sdk.SharedByAll, (*modelSuite).withCounter, (*modelSuite).sharedCounter},
		{Law{"MODEL-046", "SnapshotIsEqual", "The writes that stand of a set or a counter, merged elsewhere, make the same"}, sdk.SharedByAll, shared, (*modelSuite).sharedSnapshot},
		{Law{"MODEL-047", "UnknownFieldsMerge", "Fields of a newer schema merge as their columns say"}, sdk.SharedByAll, shared, (*modelSuite).sharedUnknownMerges},
		{Law{"MODEL-048", "OwnerDecidesTheKind", "An operation on a record of a hybrid model that has an owner is refused, and one without a natural key"}, sdk.SharedByAll, (*modelSuite).hybrid, (*modelSuite).sharedOwner},
	}
}

// ModelLaws returns the laws of models.
func ModelLaws() []Law {
	laws := modelLaws()
	out := make([]Law, len(laws))
	for i := range laws {
		out[i] = laws[i].Law
	}
	return out
}
