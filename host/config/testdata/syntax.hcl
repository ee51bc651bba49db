library "home" {}
device "alice" {
  data_dir "./data"
}
store 'sqlite' {}
sync {
  heartbeat =
  page_bytes = "256KB!"
}
log { level = "info", format = "text" }
ignore = [".git" "node_modules"]
transport "tcp" "lan" = {
}
model "entry"
{
}
