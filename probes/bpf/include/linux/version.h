#pragma once
#ifndef LINUX_VERSION_CODE
#define LINUX_VERSION_CODE 0 /* programs are told what they need by -D; none asks for a version */
#endif
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
