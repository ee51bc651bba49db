library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
telemetry { prometheus = "9464" }
telemetry { promethius = "127.0.0.1:9464" }
