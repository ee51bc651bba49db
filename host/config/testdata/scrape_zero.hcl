library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
telemetry "x" { prometheus = "127.0.0.1:0" }
