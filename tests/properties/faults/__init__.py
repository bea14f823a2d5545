"""What befalls those who use the library: full disks, broken and hostile files, overflows."""
