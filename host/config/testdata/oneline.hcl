library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
model "location" { config { ignore = [".git"] } }
