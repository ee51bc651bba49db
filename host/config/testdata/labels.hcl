library "" {}
device "alice" "bob" { data_dir = "" }
store "postgres" {}
model "Entry" {}
transport "TCP" "lan" {}
sync "fast" {}
