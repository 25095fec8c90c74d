/* What mingw-w64's headers lack of those that wdk-sys is written for. Read before the first of them. */

/* wdm.h; page "POOL_FLAGS" of the Windows driver documentation. */
typedef unsigned __int64 POOL_FLAGS;
