// <linux/kvm.h>, usable from C++: include this instead.
//
// Kernel headers up to 6.4 declare flexible arrays by an empty struct, which has a size in C++ and
// none in C. That grows the structs, and with them the ioctl numbers made from their sizes: KVM
// then knows no such call. Later headers do as below.
#pragma once
// A flexible array in C++ is an extension.
#pragma GCC system_header

#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]
#include <linux/kvm.h>

static_assert(sizeof(kvm_signal_mask) == 4 && sizeof(kvm_cpuid2) == 8);
