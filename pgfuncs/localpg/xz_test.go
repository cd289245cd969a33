//go:build unix

package localpg

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// xzStored is data as an .xz stream that stores it: one block of uncompressed LZMA2 chunks.
func xzStored(data []byte) []byte {
	flags := []byte{0, 1} // the check is a CRC32
	var out bytes.Buffer
	out.WriteString("\xfd7zXZ\x00")
	out.Write(withCRC(flags))

	const lzma2, dictionary = 0x21, 0x16
	header := withCRC([]byte{2, 0, lzma2, 1, dictionary, 0, 0, 0})
	body := lzma2Stored(data)
	out.Write(header)
	out.Write(padded(body))
	check := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(data))
	out.Write(check)

	index := []byte{0, 1}
	index = binary.AppendUvarint(index, uint64(len(header)+len(body)+len(check)))
	index = binary.AppendUvarint(index, uint64(len(data)))
	index = withCRC(padded(index))
	out.Write(index)

	footer := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1))
	footer = append(footer, flags...)
	out.Write(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(footer)))
	out.Write(footer)
	out.WriteString("YZ")
	return out.Bytes()
}

func lzma2Stored(data []byte) []byte {
	const most = 1 << 16
	var out []byte
	control := byte(1) // resets the dictionary; 2, for the chunks after the first, does not
	for len(data) > 0 {
		n := min(len(data), most)
		out = append(out, control, byte((n-1)>>8), byte(n-1))
		out = append(out, data[:n]...)
		data, control = data[n:], 2
	}
	return append(out, 0)
}

func withCRC(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b)) }

// padded is b with zeros up to a multiple of four.
func padded(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
