library {}
device {}
store {}
model {}
transport "tcp" {}
