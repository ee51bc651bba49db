library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
telemetry {
  prometheus = "localhost"
}
