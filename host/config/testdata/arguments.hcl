library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" { durabilty = "full" }
plugin_dirs = "x"

transport "tcp" "lan" {
  lisen = "0.0.0.0:7420"
}

sync {
  heartbeat       = "5s"
  max_clock_drift = "1min"
  retention {
    ages = "90d"
  }
  limit {
    frame_bytes = "1MiB"
  }
  page_byte = "1MiB"
  retention_age = "90d"
}
sink {}
model = "entry"
log {
  level = "inf"
  format = "xml"
  listen = "x"
}
