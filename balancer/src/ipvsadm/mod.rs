//! The command language of ipvsadm, as far as it is typed: on a command line, or line by line in a file of rules.
