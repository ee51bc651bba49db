package main

import (
	"github.com/starling-sync/starling/sdk"
)

// Folder is device-owned and refers to its own kind, to a shared record, and weakly to anything.
type Folder struct {
	sdk.Owned
	Name   string     `starling:"name"`
	Size   int64      `starling:"size"`
	Parent sdk.Ref    `starling:"parent,ref=folder"`
	Topic  sdk.Ref    `starling:"topic,ref=topic"`
	Cover  sdk.AnyRef `starling:"cover,weak"`
}

// Topic is shared, and refers to its own kind and to a device-owned record.
type Topic struct {
	sdk.Shared
	Title  string  `starling:"title"`
	Color  string  `starling:"color"`
	Size   int64   `starling:"size"`
	Parent sdk.Ref `starling:"parent,ref=topic"`
	Folder sdk.Ref `starling:"folder,ref=folder"`
}

// Meter is shared, with a field of each merge kind, and is never deleted: see mayDelete.
type Meter struct {
	sdk.Shared
	High  int64           `starling:"high,max"`
	Low   int64           `starling:"low,min"`
	Title string          `starling:"title"`
	Words sdk.Set[string] `starling:"words"`
	Count sdk.Counter     `starling:"count"`
}

// Tie joins a topic to anything, once: its id is its natural key.
type Tie struct {
	sdk.Shared
	Topic  sdk.Ref    `starling:"topic,ref=topic,key"`
	Target sdk.AnyRef `starling:"target,key"`
	Note   string     `starling:"note"`
}

// Member is a device of the library, as the library itself keeps it.
type Member struct {
	sdk.Shared
	Device  int64 `starling:"device,key"`
	Retired int64 `starling:"retired,max"` // when it was; nil: it belongs to the library
}

const (
	folderModel sdk.ModelName = "folder"
	topicModel  sdk.ModelName = "topic"
	meterModel  sdk.ModelName = "meter"
	tieModel    sdk.ModelName = "tie"
	memberModel sdk.ModelName = "member"
)

var modelNames = [...]sdk.ModelName{folderModel, memberModel, meterModel, tieModel, topicModel}

// columns of each model as its schema orders them.
func columnsOf(model sdk.ModelName) []string {
	switch model {
	case folderModel:
		return []string{"name", "size", "parent", "topic", "cover"}
	case topicModel:
		return []string{"title", "color", "size", "parent", "folder"}
	case meterModel:
		return []string{"high", "low", "title", "words", "count"}
	case tieModel:
		return []string{"topic", "target", "note"}
	}
	return []string{"device", "retired"}
}

// required are the columns whose record must be visible, with the model that they must be of ("": any).
func required(model sdk.ModelName) map[string]sdk.ModelName {
	switch model {
	case folderModel:
		return map[string]sdk.ModelName{"parent": folderModel, "topic": topicModel}
	case topicModel:
		return map[string]sdk.ModelName{"parent": topicModel, "folder": folderModel}
	case tieModel:
		return map[string]sdk.ModelName{"topic": topicModel, "target": ""}
	}
	return nil
}

func mergeOf(model sdk.ModelName, column string) sdk.Merge {
	switch {
	case model == meterModel && column == "high", model == memberModel && column == "retired":
		return sdk.Max
	case model == meterModel && column == "low":
		return sdk.Min
	case model == meterModel && column == "words":
		return sdk.AddWins
	case model == meterModel && column == "count":
		return sdk.Sum
	}
	return sdk.LWW
}

func servers() []sdk.ModelServer {
	return []sdk.ModelServer{
		sdk.Model[Member]{Name: memberModel, Version: 1}, sdk.Model[Topic]{Name: topicModel, Version: 1},
		sdk.Model[Folder]{Name: folderModel, Version: 1}, sdk.Model[Tie]{Name: tieModel, Version: 1},
		sdk.Model[Meter]{Name: meterModel, Version: 1},
	}
}

// mayDelete says whether records of a model are deleted. What does not merge by the last write outlives the record: it counts
// again once the record is inserted again, unless the clocks of the deleted record have been forgotten by then, which devices do
// at different times. Until that is settled meters stay, and an insert names every field.
func mayDelete(model sdk.ModelName) bool { return model != meterModel }

// kindOf is how the records of a model change.
func kindOf(model sdk.ModelName) sdk.Ownership {
	if model == folderModel {
		return sdk.DeviceOwned
	}
	return sdk.SharedByAll
}

func deviceID(n int) sdk.DeviceID { return sdk.DeviceID{0: 0xd0, 6: 0x80, 8: 0x80, 15: byte(n + 1)} }

// folderID is record k of device n.
func folderID(n, k int) sdk.RecordID { return sdk.RecordID{0: 0xf0, 14: byte(n), 15: byte(k)} }

// indexOf is the device whose id it is.
func indexOf(id sdk.DeviceID) int { return int(id[15]) - 1 }

func topicID(k int) sdk.RecordID { return sdk.RecordID{0: 0x70, 15: byte(k)} }

func meterID(k int) sdk.RecordID { return sdk.RecordID{0: 0x30, 15: byte(k)} }
