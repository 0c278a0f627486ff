module template

go 1.26.0
