package catalog

import "github.com/starling-sync/starling/sdk"

// Metrics are what an operator can watch of the catalogue. Those of the zero value count nothing.
type Metrics struct {
	Scans       *sdk.MetricCounter // whole readings of a location
	ScanSeconds *sdk.MetricCounter
	Names       *sdk.MetricCounter // seen in folders that were read

	FilesHashed, BytesHashed, HashFailures *sdk.MetricCounter
	HashQueue                              *sdk.MetricGauge // folders
}

// NewMetrics returns metrics that are in set.
func NewMetrics(set *sdk.Metrics) Metrics {
	return Metrics{
		Scans:        set.Counter("location_scans_total", "Readings of a whole location, from its root to its last folder."),
		ScanSeconds:  set.Counter("location_scan_seconds_total", "Time that readings of whole locations took."),
		Names:        set.Counter("location_names_read_total", "Names seen in folders that were read."),
		FilesHashed:  set.Counter("location_files_hashed_total", "Files whose content was read for its hash."),
		BytesHashed:  set.Counter("location_hashed_bytes_total", "Bytes read for hashes; of large files only samples are."),
		HashFailures: set.Counter("location_hash_failures_total", "Files whose content could not be read for its hash."),
		HashQueue:    set.Gauge("location_hash_queue_folders", "Folders in which there may be files to hash."),
	}
}
