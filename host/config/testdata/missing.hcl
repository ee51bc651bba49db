# nothing is here
