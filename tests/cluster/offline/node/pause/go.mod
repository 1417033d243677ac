module si-ctl/pause

go 1.26
