library "home" { join = true }
device "alice" { data_dir = "./data" }
store "sqlite" {}
