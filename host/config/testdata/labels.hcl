library "" {}
device "alice" "bob" { data_dir = "" }
store "mysql" {}
model "Entry" {}
transport "TCP" "lan" {}
sync "fast" {}
