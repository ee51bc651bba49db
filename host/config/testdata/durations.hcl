library { join = true }
device "alice" { data_dir = "./data" }
store "sqlite" {}
sync {
  heartbeat       = "5 sec"
  max_clock_drift = "1 day"
  page_bytes      = "1MiB"
  window_bytes    = "512KiB"
  audit           = "2 weeks"
}
